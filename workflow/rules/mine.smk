rule classify:
    """Tag classifier."""
    input:
        unpack(inputs),
    output:
        made_by("classify"),
    log:
        f"logs/{ROOT}/{{folder}}/classify.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/classify.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(8000),
        runtime=720,
        gpu=1,
    params:
        flags=flags,
        code=code("classify"),
    shell:
        "python -m pipeline.classify {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule cam:
    """Class activation maps."""
    input:
        unpack(inputs),
    output:
        made_by("cam"),
    log:
        f"logs/{ROOT}/{{folder}}/cam.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/cam.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(4000),
        runtime=240,
        gpu=1,
    params:
        flags=flags,
        code=code("cam"),
    shell:
        "python -m pipeline.cam {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule erase:
    """One round of adversarial erasing."""
    input:
        unpack(inputs),
    output:
        made_by("erase"),
    log:
        f"logs/{ROOT}/{{folder}}/erase.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/erase.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(8000),
        runtime=960,
        gpu=1,
    params:
        flags=flags,
        code=code("erase"),
    shell:
        "python -m pipeline.erase {params.flags} --out {output} --threads {threads} > {log} 2>&1"
