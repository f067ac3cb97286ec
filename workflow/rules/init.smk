rule imagenet:
    """Weights pretrained on ImageNet."""
    input:
        lambda w: node(w.folder).settings.file or [],
    output:
        made_by("imagenet"),
    log:
        f"logs/{ROOT}/{{folder}}/imagenet.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/imagenet.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(2000),
        runtime=30,
    params:
        flags=flags,
        code=code("init"),
    shell:
        "python -m pipeline.init {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule random:
    """Random weights."""
    input:
        unpack(inputs),
    output:
        made_by("random"),
    log:
        f"logs/{ROOT}/{{folder}}/random.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/random.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(2000),
        runtime=30,
    params:
        flags=flags,
        code=code("init"),
    shell:
        "python -m pipeline.init {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule proxy:
    """Self-supervised pretraining: colorization or jigsaw."""
    input:
        unpack(inputs),
    output:
        made_by("proxy"),
    log:
        f"logs/{ROOT}/{{folder}}/proxy.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/proxy.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(8000),
        runtime=1440,
        gpu=1,
    params:
        flags=flags,
        code=code("proxy"),
    shell:
        "python -m pipeline.proxy {params.flags} --out {output} --threads {threads} > {log} 2>&1"
