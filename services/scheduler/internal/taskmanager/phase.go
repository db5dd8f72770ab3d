package taskmanager

// phase is what the manager does with its tasks.
//
//	serving --HandOver---------> handingOver
//	   |
//	   +------AwaitDownloads---> finishing
//
// No task is created or restored after serving. In the phase finishing no peer is
// accepted either.
type phase uint8

const (
	serving phase = iota
	handingOver
	finishing
)

// enter changes the phase.
func (m *Manager) enter(p phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase = p
}
