"""Speed against how the field does it, and against what the machine allows: `make bench`.

Each number is a ratio of two contenders that were timed in turn in one run, after they were found to compute the same.
"""
