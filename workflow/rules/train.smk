rule segment:
    """Final segmentation network."""
    input:
        unpack(inputs),
    output:
        made_by("segment"),
    params:
        flags=flags,
        code=code("segment"),
    log:
        f"logs/{ROOT}/{{folder}}/segment.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/segment.tsv"
    threads: workflow.cores or 4
    resources:
        mem_mb=more(8000),
        runtime=1440,
        gpu=1,
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m pipeline.segment {params.flags} --out {output} --threads {threads} > {log} 2>&1"


