rule evaluate:
    """Scores at original resolution: seeds and labels on split score, models on val."""
    input:
        images=IMAGES,
        scored=f"{ROOT}/{{folder}}/{{kind}}.json",
    output:
        f"{ROOT}/{{folder}}/{{kind}}.metrics.json",
    log:
        f"logs/{ROOT}/{{folder}}/{{kind}}.metrics.log",
    benchmark:
        f"logs/benchmark/{ROOT}/{{folder}}/{{kind}}.metrics.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(4000),
        runtime=240,
    params:
        settings=CONFIG.evaluate.model_dump_json(),
        compute=compute(),
        code=code("evaluate"),
    shell:
        "python -m pipeline.evaluate --images {input.images} --of {input.scored} --settings {params.settings:q}"
        " {params.compute} --out {output} --threads {threads} > {log} 2>&1"


rule page:
    """The report of one recipe and seed: one HTML file."""
    input:
        images=IMAGES,
        artifacts=lambda w: [stage["manifest"] for stage in stages(w)],
        metrics=lambda w: [stage["metrics"] for stage in stages(w) if stage["metrics"]],
    output:
        report(
            f"{ROOT}/report/{{recipe}}-seed{{seed}}.html",
            caption="../report/page.rst",
            category="Recipes",
            labels={"recipe": "{recipe}", "seed": "{seed}"},
        ),
    log:
        f"logs/{ROOT}/report/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"logs/benchmark/{ROOT}/report/{{recipe}}-seed{{seed}}.tsv"
    conda:
        "../../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=more(4000),
        runtime=60,
    params:
        stages=lambda w: json.dumps(stages(w)),
        evaluate=CONFIG.evaluate.model_dump_json(),
        show=CONFIG.report.images,
        code=code("report"),
        template=hashlib.sha256((Path(workflow.basedir) / "pipeline/core/report.html.j2").read_bytes()).hexdigest()[:16],
    shell:
        "python -m pipeline.report --recipe {wildcards.recipe} --seed {wildcards.seed} --images {input.images}"
        " --stages {params.stages:q} --evaluate {params.evaluate:q} --show {params.show} --out {output}"
        " --threads {threads} > {log} 2>&1"


rule verify:
    """Re-read every artifact against its manifest."""
    log:
        f"logs/{ROOT}/verify.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        root=ROOT,
    shell:
        "python -m pipeline.artifacts verify {params.root} 2>&1 | tee {log}"


rule clean:
    """Delete every artifact of the data set: manifests, stores and what unfinished runs left."""
    log:
        "logs/clean.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        root=ROOT,
    shell:
        "python -m pipeline.artifacts clean {params.root} 2>&1 | tee {log}"
