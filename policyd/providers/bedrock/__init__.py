"""Amazon Bedrock's wire formats: converse and invoke, with the formats of the makers whose models it hosts."""
