"""What each stage does; adakd/inputs.py says what the results depend on.

The command line and studies call these. Nothing heavy is imported before there is something to do.
"""
