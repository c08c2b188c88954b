"""Reading images from WebDataset tars, Parquet files, folders and manifests, local or on S3."""
