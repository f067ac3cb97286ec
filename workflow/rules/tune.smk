rule patches:
    """Mix: the patch bank."""
    input:
        unpack(inputs),
    output:
        made_by("patches"),
    log:
        f"logs/{ROOT}/{{folder}}/patches.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/patches.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(2000),
        runtime=120,
    params:
        flags=flags,
        code=code("patches"),
    shell:
        "python -m pipeline.patches {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule triplet:
    """Match: triplet tuning on class-wise connected graphs."""
    input:
        unpack(inputs),
    output:
        made_by("triplet"),
    log:
        f"logs/{ROOT}/{{folder}}/triplet.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/triplet.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(8000),
        runtime=720,
        gpu=1,
    params:
        flags=flags,
        code=code("triplet"),
    shell:
        "python -m pipeline.triplet {params.flags} --out {output} --threads {threads} > {log} 2>&1"
