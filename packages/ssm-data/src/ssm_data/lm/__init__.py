"""Language modelling: tokenisers, packed corpora, samplers, heads and the task that text-lm and wikitext103 share."""
