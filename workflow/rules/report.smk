for rule_name, kinds in {"evaluate": "seeds|labels|soft", "evaluate_model": "model"}.items():

    rule:
        # Scores at original resolution: seeds and labels, hard or soft, on split score, models on val.
        name:
            rule_name
        input:
            photographs=PARTS["photographs"],
            masks=PARTS["masks"],
            scored=f"{ROOT}/{{folder}}/{{kind}}.json",
        output:
            f"{ROOT}/{{folder}}/{{kind,{kinds}}}.metrics.json",
        log:
            f"logs/{ROOT}/{{folder}}/{{kind}}.metrics.log",
        benchmark:
            f"logs/benchmark/{ROOT}/{{folder}}/{{kind}}.metrics.tsv"
        conda:
            "../../envs/pipeline.yaml"
        threads: 8
        resources:
            **SITE.request(on_gpu(kinds == "model")),
            mem_mb=memory(costs.SCORE),
            runtime=runtime(costs.SCORE),
        params:
            settings=lambda w: CONFIG.evaluate.model_dump_json(),
            compute=shlex.join(compute()),
            code=code_of_evaluate,
        shell:
            "TAGMASK_TERMINAL=3 python -m pipeline.evaluate --photographs {input.photographs:q} --masks {input.masks:q}"
            " --of {input.scored:q} --settings {params.settings:q} {params.compute} --out {output:q}"
            " --threads {threads} 3>&2 > {log:q} 2>&1"


rule page:
    """The report of one recipe and seed: one HTML file."""
    input:
        data=[PARTS[part] for part in ("photographs", "tags", "masks")],
        artifacts=lambda w: shown("manifest", (w.recipe, int(w.seed))),
        metrics=lambda w: shown("metrics", (w.recipe, int(w.seed))),
    output:
        page=report(
            f"{ROOT}/report/{{recipe}}-seed{{seed}}.html",
            caption="../report/page.rst",
            category="Recipes",
            labels={"recipe": "{recipe}", "seed": "{seed}"},
        ),
        listing=f"{ROOT}/report/{{recipe}}-seed{{seed}}.listing.json",  # what the page shows, for the index
    log:
        f"logs/{ROOT}/report/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"logs/benchmark/{ROOT}/report/{{recipe}}-seed{{seed}}.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: 8
    resources:
        **SITE.request(on_gpu(True)),
        mem_mb=memory(costs.SCORE),
        runtime=runtime(costs.SCORE),
    params:
        stages=lambda w: json.dumps(stages(w.recipe, w.seed)),
        evaluate=lambda w: CONFIG.evaluate.model_dump_json(),
        compute=shlex.join(compute()),
        show=CONFIG.report.images,
        code=lambda w: code_of_page("page", (w.recipe, int(w.seed))),
    shell:
        "TAGMASK_TERMINAL=3 python -m pipeline.report --recipe {wildcards.recipe:q} --seed {wildcards.seed}"
        " --photographs {input.data[0]:q} --tags {input.data[1]:q} --masks {input.data[2]:q} --stages {params.stages:q} --evaluate {params.evaluate:q}"
        " --show {params.show} {params.compute} --out {output.page:q} --listing {output.listing:q} --threads {threads}"
        " 3>&2 > {log:q} 2>&1"


rule index:
    """All recipes and seeds that are asked for, on one page. Not in Snakemake's own report, where links would break."""
    input:
        data=[PARTS[part] for part in ("photographs", "tags", "masks")],
        listings=reports(".listing.json"),
        artifacts=lambda w: shown("manifest", *NODES),
        metrics=lambda w: shown("metrics", *NODES),
    output:
        f"{ROOT}/report/index.html",
    log:
        f"logs/{ROOT}/report/index.log",
    benchmark:
        f"logs/benchmark/{ROOT}/report/index.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: 8
    resources:
        **SITE.request(on_gpu(True)),
        mem_mb=memory(costs.SCORE),
        runtime=runtime(costs.SCORE),
    params:
        evaluate=lambda w: CONFIG.evaluate.model_dump_json(),
        compute=shlex.join(compute()),
        show=CONFIG.report.images,
        code=lambda w: code_of_page("index", *NODES),
    shell:
        "TAGMASK_TERMINAL=3 python -m pipeline.report.index --photographs {input.data[0]:q} --tags {input.data[1]:q}"
        " --masks {input.data[2]:q} --listings {input.listings:q} --evaluate {params.evaluate:q}"
        " --show {params.show} {params.compute} --out {output:q} --threads {threads} 3>&2 > {log:q} 2>&1"


rule verify:
    """Re-read every artifact against its manifest; name what a recipe needs and is not there."""
    log:
        f"logs/{ROOT}/verify.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        root=ROOT,
        needs=lambda wildcards: shlex.join(needed()),
    shell:
        "python -m pipeline.artifacts verify {params.root:q} --needs {params.needs} 2>&1 | tee {log:q}"


rule clean:
    """Delete every artifact of the data set: manifests, stores and what unfinished runs left."""
    log:
        "logs/clean.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        root=ROOT,
    shell:
        "python -m pipeline.artifacts clean {params.root:q} 2>&1 | tee {log:q}"
