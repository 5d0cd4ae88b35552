// What the hub's words about an event's delivery say to people. TestContractWords holds them to openapi.yaml.

/** Why somebody did not get an event, or has not acknowledged it. */
export const WHY = {
  sentUnacknowledged: 'A connection of theirs was sent it, and has not acknowledged it.',
  behind: 'A connection of theirs is still being sent what it missed.',
  filtered: 'None of their connections wants events of this type.',
  excluded: 'The event’s target leaves them out.',
  joinedLater: 'All their connections began after it was published.',
  noConnection: 'They have no connection.',
  notAMember: 'They were not a member of its room.',
  notATarget: 'It was for others.',
  unknown: 'Another hub, which may know, does not answer; or it is not known whether they were a member of its room then.',
};

/** What came of an event for somebody. */
export const STATES = {
  acknowledged: 'has acknowledged it',
  reported: 'did not acknowledge it by its deadline, and was reported to the service',
  sent: 'was sent it',
  owed: 'has not got it',
  unknown: 'may have acknowledged it or not, since that is not known any more',
};
