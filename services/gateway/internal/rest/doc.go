// Package rest is the HTTP server of the gateway: which path leads where, what
// may come in, how errors are written, and how it stops. What the calls do is
// in package dfget, how things are written in package dfgetcodec, and what an error
// means in package errmap.
package rest
