# What a data set is to the recipes: photographs, tags and masks, each remade only when its own files change.

for part, path in PARTS.items():

    rule:
        name:
            f"prepare_{part}"
        input:
            photographs_there if part == "photographs" else PARTS["photographs"],  # whose rows theirs are
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
            # Derived from the output, so that Snakemake does not compare it: `files` has all of it that matters.
            data=lambda wildcards, output: CONFIG.data.model_dump_json(),
            files=getattr(SCAN, part),  # of the files and settings that it is made from
            code=digest.code_digest("prepare", [part, CONFIG.data.format]),
        shell:
            "python -m pipeline.prepare --make {params.make} {params.rows} --settings {params.data:q} --out {output:q}"
            " 2>&1 | tee {log:q}"
