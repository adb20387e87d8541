"""WikiText-103: the next word, piece or byte of Wikipedia articles (spec, data, task)."""
