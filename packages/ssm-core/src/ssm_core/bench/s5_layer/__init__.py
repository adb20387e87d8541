"""The S5 layer on this machine, beside other implementations if they are installed."""
