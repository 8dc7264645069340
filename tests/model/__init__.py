"""`UploadCore` held against a plain reference model, under crashes, lost answers and late effects, in random order."""
