package convert

import (
	"fmt"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// What is stored is the contract's JSON form: an operator can read and repair
// it with etcdctl alone, and the few writes a task costs leave the bytes saved
// by the binary form without weight. Its spaces differ between builds, so
// values are compared, never their bytes. Unknown fields are skipped when read:
// during an upgrade, old and new registries share a store.

// StoreMember gives the stored form of a member.
func StoreMember(m record.Member) (string, error) {
	data, err := protojson.Marshal(MemberTo(m))
	if err != nil {
		return "", fmt.Errorf("encode member: %w", err)
	}
	return string(data), nil
}

// LoadMember reads what StoreMember gave; the key says who it is.
func LoadMember(key record.MemberKey, data []byte) (record.Member, error) {
	var message registryv1.Member
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &message); err != nil {
		return record.Member{}, fmt.Errorf("decode member: %w", err)
	}
	member := MemberFrom(&message)
	member.Role, member.ID = key.Role, key.ID
	if err := member.Check(); err != nil {
		return record.Member{}, fmt.Errorf("stored member: %w", err)
	}
	return member, nil
}

// StoreTask gives the stored form of a record, without its revision: that is
// the store's to say.
func StoreTask(t record.Task) (string, error) {
	message := TaskTo(t)
	message.Revision = 0
	data, err := protojson.Marshal(message)
	if err != nil {
		return "", fmt.Errorf("encode task record: %w", err)
	}
	return string(data), nil
}

// LoadTask reads what StoreTask gave; the key says which task it is, the store
// of what revision.
func LoadTask(id string, revision int64, data []byte) (record.Task, error) {
	var message registryv1.TaskRecord
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &message); err != nil {
		return record.Task{}, fmt.Errorf("decode task record: %w", err)
	}
	task := TaskFrom(&message)
	task.ID, task.Revision = id, revision
	return task, nil
}
