"""Text of the Long Range Arena: film reviews (IMDB), good or bad, letter by letter."""
