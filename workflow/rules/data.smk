# What a data set is to the recipes: photographs, tags and masks, each remade only when its own files change.
DATA = CONFIG.data.model_dump_json()

for part, path in PARTS.items():

    rule:
        name:
            f"prepare_{part}"
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
            mem_mb=more(2000),
            runtime=more(60),
        params:
            make=part,
            settings=settings_of(CONFIG.data, part),
            files=getattr(SCAN, part),
            code=digest.code_digest("prepare"),
        shell:
            "python -m pipeline.prepare --make {params.make} --settings {DATA:q} --out {output:q} 2>&1 | tee {log:q}"
