rule imagenet:
    """Weights pretrained on ImageNet."""
    input:
        unpack(inputs),
    output:
        made_by("imagenet"),
    params:
        flags=flags,
        code=code("init"),
    log:
        f"logs/{ROOT}/{{folder}}/imagenet.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/imagenet.tsv"
    threads: workflow.cores or 4
    resources:
        mem_mb=more(2000),
        runtime=30,

    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.init {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule random:
    """Random weights."""
    input:
        unpack(inputs),
    output:
        made_by("random"),
    params:
        flags=flags,
        code=code("init"),
    log:
        f"logs/{ROOT}/{{folder}}/random.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/random.tsv"
    threads: workflow.cores or 4
    resources:
        mem_mb=more(2000),
        runtime=30,

    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.init {params.flags} --out {output} --threads {threads} > {log} 2>&1"


rule proxy:
    """Self-supervised pretraining: colorization or jigsaw."""
    input:
        unpack(inputs),
    output:
        made_by("proxy"),
    params:
        flags=flags,
        code=code("proxy"),
    log:
        f"logs/{ROOT}/{{folder}}/proxy.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/proxy.tsv"
    threads: workflow.cores or 4
    resources:
        mem_mb=more(8000),
        runtime=1440,
        gpu=1,
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.proxy {params.flags} --out {output} --threads {threads} > {log} 2>&1"


