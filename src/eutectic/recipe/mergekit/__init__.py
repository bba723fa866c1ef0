"""mergekit's recipes, read unchanged: its grammar, its meaning, its traps, as recipes of ours.

`grammar` reads a document, `methods` says what each of its methods is here, `translate` writes the recipe, `stages`
joins several documents, `flags` reads its command line. Nothing here opens a model: what depends on depth or on a
tensor's name becomes gradients and rules. Facts are of mergekit 0.1.5.
"""
