"""Training throughput of one block of every backbone, beside other implementations if they are installed."""
