// Package balancer is what stands before gateways in the field, a Kubernetes
// Service or any other balancer of connections, for tests: one address whose
// connections go to several backends in turn, and whose new connections go to
// backends that live. It knows nothing of what is said on them; what happens to
// a backend happens to its connections, which end or break as theirs do.
//
// Checks of health, weights and retries of requests do not belong here: clients
// have to live with a balancer that does none of it.
package balancer
