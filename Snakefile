# Contents page: configuration, rules, targets. The order of the steps is in config.yaml, a step's code in pipeline/.
from snakemake.utils import min_version

min_version("9.18")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/steps.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


onstart:
    cluster.watch(workflow, logger.warning)  # names jobs on Slurm that wait for what cannot come
    progress.watch(under_way(), logger.info)  # a line now and then about each stage at work
    # Snakemake's limit of 100 jobs a second leaves a timer behind with each job that ends while others wait, and each
    # timer plans what is left anew, every second until the end: after some hundred jobs a whole core's work.
    workflow.scheduler.job_rate_limiter = None


onerror:
    for line in progress.died(under_way(), BEGAN):
        logger.error(line)
    logger.error("What is finished is kept. Run the same command again: the rest goes on where it was.")


onsuccess:
    ending.tell(workflow, f"{ROOT}/report/index.html", reports(".listing.json"), fail=logger.warning)


localrules:
    all,
    verify,
    clean,


rule all:
    default_target: True
    input:
        reports(".html"),
        f"{ROOT}/report/index.html",
