// Package lab is hosts and disks that misbehave when a test wants it: networks
// that are cut, disks that are full, fail, are slow or hang. All of it lives in
// namespaces that die with the test's process, however that ends, so nothing
// has to be put away and nothing outside can be harmed. What runs on these
// hosts and disks is for the tests.
package lab
