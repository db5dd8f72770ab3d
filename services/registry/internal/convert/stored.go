package convert

import (
	"fmt"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Members and records are stored as protobuf JSON, so that an operator can read and
// repair them with etcdctl. A task costs few writes, so the smaller binary form would
// save little. protojson varies the spaces between builds; therefore values are
// compared, and never their bytes. Unknown fields are ignored when a value is read,
// because registries of different builds share a store during an upgrade.

// EncodeMember returns the stored form of a member.
func EncodeMember(m record.Member) (string, error) {
	data, err := protojson.Marshal(MemberTo(m))
	if err != nil {
		return "", fmt.Errorf("encoding a member: %w", err)
	}
	return string(data), nil
}

// DecodeMember decodes a value that EncodeMember has encoded. Role and id are those of
// the key. It returns an error if the member is invalid.
func DecodeMember(key record.MemberKey, data []byte) (record.Member, error) {
	var message registryv1.Member
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &message); err != nil {
		return record.Member{}, fmt.Errorf("decoding a member: %w", err)
	}
	member := MemberFrom(&message)
	member.Role, member.ID = key.Role, key.ID
	if err := member.Check(); err != nil {
		return record.Member{}, fmt.Errorf("checking a stored member: %w", err)
	}
	return member, nil
}

// EncodeTask returns the stored form of a record. It does not contain the revision,
// which the store assigns.
func EncodeTask(t record.Task) (string, error) {
	message := TaskTo(t)
	message.Revision = 0
	data, err := protojson.Marshal(message)
	if err != nil {
		return "", fmt.Errorf("encoding a task record: %w", err)
	}
	return string(data), nil
}

// DecodeTask decodes a value that EncodeTask has encoded. The id is that of the key, and
// the revision that of the value in the store.
func DecodeTask(id string, revision int64, data []byte) (record.Task, error) {
	var message registryv1.TaskRecord
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &message); err != nil {
		return record.Task{}, fmt.Errorf("decoding a task record: %w", err)
	}
	task := TaskFrom(&message)
	task.ID, task.Revision = id, revision
	return task, nil
}
