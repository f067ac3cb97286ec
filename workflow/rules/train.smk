rule segment:
    """Final segmentation network."""
    input:
        unpack(inputs),
    output:
        made_by("segment"),
    log:
        f"logs/{ROOT}/{{folder}}/segment.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/segment.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(8000),
        runtime=1440,
        gpu=1,
    params:
        flags=flags,
        code=code("segment"),
    shell:
        "python -m pipeline.segment {params.flags} --out {output} --threads {threads} > {log} 2>&1"
