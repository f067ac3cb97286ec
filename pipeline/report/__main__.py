from pipeline.report.page import main

main()
