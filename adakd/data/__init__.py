"""The data room: text normalisation, audio reading, manifests, and the stage that makes them.

Nothing is imported here, so that `adakd.data.text` and its neighbours stay light.
"""
