"""Where weights come from and go to: find a checkpoint, look at it, check a pair, read tensors, write a folder.

`resolve`, `inspect` and `guard` read headers and JSON files only and import no torch: the page calls them. `reader` and
`writer` know the numbers: as arrays, and as tensors where those are asked for. Only `*.safetensors` is ever opened.
"""
