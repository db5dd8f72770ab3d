// Package rest serves dfget's REST API over HTTP: it maps paths to calls, checks
// methods and body sizes, writes errors, counts requests, and stops gracefully.
//
// Every answer passes through Handler.ServeHTTP, so that each request is counted
// once and a panic is answered with 500. What the calls do is in package dfget,
// the encoding in package dfgetcodec, and the mapping of errors in package errmap.
package rest
