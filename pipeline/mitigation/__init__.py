"""Drawing otherwise, with the weights as they are: what a user can do where nothing is erased.

    wen.py         the prompt's embedding, moved until the caption pulls less
    captions.py    the caption, or its embedding, at random
    transition.py  no guidance until the pull of the caption has passed its first minimum
    attention.py   the tokens after the caption's end, hidden from cross-attention

`drawing.py` draws with each for the verification, `export.py` is for the user's own pipelines of
diffusers. Who has the weights can leave all of this out: the verdict is never "erased".
"""
