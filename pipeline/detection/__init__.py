"""Measures of memorization: pure functions of pictures, descriptors, noise predictions and scores.

    from pipeline.detection.cliques import largest_clique
    from pipeline.detection.tiled_l2 import pairwise_tiled_l2
    largest_clique(pairwise_tiled_l2(pictures), epsilon=0.15)

One file a measure; nothing here reads a file or knows a run folder.
"""
