"""How the field does it today, written from the papers and public descriptions: plain transformers, nothing of ours.

Each function computes what ours computes; the benchmarks check that before they time it.
"""
