// Package openapi carries the OpenAPI document of dfget's REST surface inside
// the binary. The document is generated from the .proto files; this file is
// the only hand-written one here.
package openapi

import _ "embed"

//go:embed dfget.swagger.json
var document []byte

// JSON is the document. The result must not be changed.
func JSON() []byte { return document }
