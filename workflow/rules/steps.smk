# One rule for each method, all alike: what differs is in the method's settings class (pipeline/core/steps/).
for method, about in METHODS.items():

    rule:
        name:
            method
        input:
            unpack(inputs),
        output:
            made_by(method),
        log:
            f"logs/{ROOT}/{{folder}}/{method}.log",
        benchmark:
            f"logs/benchmark/{ROOT}/{{folder}}/{method}.tsv"
        conda:
            "../../envs/pipeline.yaml"
        threads: about.threads
        resources:
            **SITE.request(on_gpu(about.trains or about.infers)),
            mem_mb=memory(),
            runtime=runtime(),
        params:
            command=command,
            code=code,
        shell:
            "TAGMASK_TERMINAL=3 {params.command} --out {output:q} --threads {threads} 3>&2 > {log:q} 2>&1"
