"""What is the same for all services of AWS, and those that speak as they do (`backend.dynamodb`, `recording.s3`)."""
