"""Do matching and non-matching image-text pairs differ inside a model?"""
