"""Object store on S3 and whatever speaks its protocol, over boto3 or minio-py."""
