"""What each stage does. The command line and studies call these; adakd/inputs.py says of what."""
