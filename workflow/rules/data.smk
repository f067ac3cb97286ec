rule prepare:
    """Photographs, masks and tags → images, after one pass that finds every problem."""
    output:
        IMAGES,
    params:
        settings=CONFIG.data.model_dump_json(),
        files=fingerprint(CONFIG.data),
        code=code("prepare"),
    log:
        f"logs/{ROOT}/images.log",
    benchmark:
        f"logs/benchmark/{ROOT}/images.tsv"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=60,
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.prepare --settings {params.settings:q} --out {output} > {log} 2>&1"


rule saliency:
    """Unsupervised saliency: what stands out from the image's border."""
    input:
        unpack(inputs),
    output:
        made_by("saliency"),
    params:
        flags=flags,
        code=code("saliency"),
    log:
        f"logs/{ROOT}/{{folder}}/saliency.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/saliency.tsv"
    threads: workflow.cores or 4
    resources:
        mem_mb=more(4000),
        runtime=240,
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.saliency {params.flags} --out {output} --threads {threads} > {log} 2>&1"
