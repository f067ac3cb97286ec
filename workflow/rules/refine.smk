rule crf:
    """Seeds and saliency → labels, by AE-PSL's rules and a dense CRF."""
    input:
        unpack(inputs),
    output:
        made_by("crf"),
    log:
        f"logs/{ROOT}/{{folder}}/crf.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/crf.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(4000),
        runtime=240,
    params:
        flags=flags,
        code=code("crf"),
    shell:
        "python -m pipeline.crf {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule masks:
    """True masks of a class-balanced share of the images."""
    input:
        unpack(inputs),
    output:
        made_by("masks"),
    log:
        f"logs/{ROOT}/{{folder}}/masks.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/masks.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(2000),
        runtime=60,
    params:
        flags=flags,
        code=code("masks"),
    shell:
        "python -m pipeline.masks {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule relabel:
    """A model's predictions as labels."""
    input:
        unpack(inputs),
    output:
        made_by("relabel"),
    log:
        f"logs/{ROOT}/{{folder}}/relabel.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/relabel.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(6000),
        runtime=480,
        gpu=1,
    params:
        flags=flags,
        code=code("relabel"),
    shell:
        "python -m pipeline.relabel {params.flags} --out {output} --threads {threads} > {log} 2>&1"
