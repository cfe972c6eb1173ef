"""What `holdfast bench` measures, and on what: a whole system as separate processes, driven over the public SDK.

Knows no command line; decides nothing about what is good or bad.
"""
