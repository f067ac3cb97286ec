# So that `snakemake` finds the workflow from the top of the checkout.
include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file's does not count
