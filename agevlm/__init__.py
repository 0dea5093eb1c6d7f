"""AGE-VLM (arXiv 2511.17793) and one way to look through any vision-language model.

Importing this package is cheap: nothing here loads torch, transformers or pandas.
"""

__version__ = "0.1.0"
