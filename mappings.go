package gatewayautomation

import _ "embed" // the mapping

// ReferenceMappings is model_mappings.json as it was when the program was
// built, for a gateway that runs where the file is not.
//
//go:embed model_mappings.json
var ReferenceMappings []byte
