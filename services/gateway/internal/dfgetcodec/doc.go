// Package dfgetcodec reads and writes dfget's JSON, forms and queries, driven by the
// descriptors of the protobuf messages. Unlike protojson, it matches names without
// regard to case, writes 64-bit numbers as numbers, and writes the member data as an
// object or as an array, depending on the message. The comment at the top of
// proto/supernode/dfget/v1/dfget.proto states the rules.
//
// The package handles the encoding only. Package request validates the values.
package dfgetcodec
