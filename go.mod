module github.com/MorpheusAIs/gateway-automation

go 1.26.0
