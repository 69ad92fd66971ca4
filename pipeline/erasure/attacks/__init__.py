"""Attacks: can a picture that is no longer drawn be brought back?

One file an attack. Each takes a model, a picture and a budget, and draws; whether a drawing shows
the picture is for `judge` to say, and what follows from the hits for `pipeline.erasure.conclusion`.
An attack that is strong enough writes the picture itself into what it optimises, so every rate
means something only beside the same attack, at the same budget, on pictures that were never
trained, or on a model that never saw the picture.
"""
