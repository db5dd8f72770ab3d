// Package dfgetcodec is the JSON, the forms and the queries of dfget, driven by the
// descriptors of the messages they stand for: names without regard to case,
// numbers as numbers, `data` an object or an array as the message demands. It
// knows how things are written and nothing of what they mean; what a value may
// be is decided in package request.
package dfgetcodec
