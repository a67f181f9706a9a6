"""What a person proves: passwords, second factors, what they are proved for, and the lockout after failures."""
