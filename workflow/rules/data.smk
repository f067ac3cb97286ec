rule prepare:
    """Photographs, masks and tags → images, after one pass that finds every problem."""
    output:
        IMAGES,
    log:
        f"logs/{ROOT}/images.log",
    benchmark:
        f"logs/benchmark/{ROOT}/images.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=60,
    params:
        settings=CONFIG.data.model_dump_json(),
        files=fingerprint(CONFIG.data),
        code=code("prepare"),
    shell:
        "python -m pipeline.prepare --settings {params.settings:q} --out {output} 2>&1 | tee {log}"


rule saliency:
    """Unsupervised saliency: what stands out from the image's border."""
    input:
        unpack(inputs),
    output:
        made_by("saliency"),
    log:
        f"logs/{ROOT}/{{folder}}/saliency.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/saliency.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(4000),
        runtime=240,
    params:
        flags=flags,
        code=code("saliency"),
    shell:
        "python -m pipeline.saliency {params.flags} --out {output} --threads {threads} > {log} 2>&1"
