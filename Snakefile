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
