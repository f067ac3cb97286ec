# What a data set is to the recipes: photographs, tags and masks, each remade only when its own files change.


class Whole:
    """The `data:` block as the command is given it. Snakemake remembers texts and numbers of `params`, and no objects:
    what makes a job run again is the digest beside it."""

    def __str__(self):
        return CONFIG.data.model_dump_json()


for part, path in PARTS.items():

    rule:
        name:
            f"prepare_{part}"
        input:
            [] if part == "photographs" else PARTS["photographs"],  # whose rows theirs are
        output:
            path,
        log:
            f"logs/{ROOT}/{part}.log",
        benchmark:
            f"logs/benchmark/{ROOT}/{part}.tsv"
        conda:
            "../../envs/pipeline.yaml"
        threads: 1
        resources:
            mem_mb=memory(costs.PREPARE),
            runtime=runtime(costs.PREPARE),
        params:
            make=part,
            rows="" if part == "photographs" else f"--photographs {shlex.quote(PARTS['photographs'])}",
            data=Whole(),
            files=getattr(SCAN, part),  # of the files and settings that it is made from
            code=digest.code_digest("prepare"),
        shell:
            "python -m pipeline.prepare --make {params.make} {params.rows} --settings {params.data:q} --out {output:q}"
            " 2>&1 | tee {log:q}"
